"""The Streamlit frame: who is looking, URL and context, caching, panels, charts, formats, theme."""
