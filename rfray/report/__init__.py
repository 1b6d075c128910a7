"""A run folder with its tables -> what people read: plots, report.html, the model card, tables for the terminal."""
