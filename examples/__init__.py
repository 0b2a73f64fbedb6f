"""The demo, the table of results and the figures, made by the project's own programs."""
