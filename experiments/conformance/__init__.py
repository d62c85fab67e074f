"""What shipped losses are, and whether planted faults are found."""
