"""Measurements are shared by searches, in a file or on a server, and leases say which search trains what."""
