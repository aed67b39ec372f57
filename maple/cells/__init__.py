"""The cells of a study: what each is, where it stands, and who works on it."""
