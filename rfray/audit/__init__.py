"""A table of image files and their near duplicates -> findings about what would make results on them mislead."""
