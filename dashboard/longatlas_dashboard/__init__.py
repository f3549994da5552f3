"""The Streamlit app: one module per page."""
