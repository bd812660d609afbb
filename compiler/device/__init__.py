"""Devices at the other end of a connection: found, reached, filled with bundles and asked to run."""
