"""A run's trained models and images, or a bundle and any files -> predictions and pictures, by tasks on Ray."""
