"""The commands that the dashboard adds to `longatlas`; none loads Streamlit or a chart before it is used."""
