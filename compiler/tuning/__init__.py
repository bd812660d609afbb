"""Tuning: finds the fastest point of each kernel's space on a device, and keeps what it finds."""
