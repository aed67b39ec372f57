"""What a study found: read from its folder, compared, drawn."""
