"""Tables of measurements made beforehand."""
