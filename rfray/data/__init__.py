"""Folders of image files -> a catalog of the images, divided into parts, and batches of their pixels."""
