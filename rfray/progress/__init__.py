"""What happens in a sweep -> events, and the live view of them in a terminal or a log."""
