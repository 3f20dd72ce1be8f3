"""Neural architecture search as a Gymnasium environment."""
