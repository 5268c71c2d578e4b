"""The one loop that trains everything. ``contract.py`` says what passes between it and a family."""
