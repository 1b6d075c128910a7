"""An address and what trials ask for -> a connected Ray and what each trial gets of it."""
