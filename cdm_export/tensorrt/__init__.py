"""Engines for this device: built in a process of their own, shown to be what they should be, tested."""
