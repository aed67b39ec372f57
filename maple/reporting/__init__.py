"""What a study shows: its cells read from their folders, its tables, figures and claims, and the page of them."""
