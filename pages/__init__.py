"""One thin script a page: context, data, panels. `dashboard/app.py` lists them."""
