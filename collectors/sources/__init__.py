"""One module per source; each imports one foreign library that nothing else imports."""
