"""One function per question the product answers. No Streamlit here, and no SQL anywhere above."""
