"""A bundle -> an HTTP server that tells real images from fake ones."""
