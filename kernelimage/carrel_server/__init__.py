"""The start command of Carrel's kernel image."""
