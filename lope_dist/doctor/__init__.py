"""What can be found wrong with hosts before anything expensive starts on them."""
