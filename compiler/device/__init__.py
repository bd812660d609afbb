"""Devices at the other end of a connection: found, reached, given bundles and asked to run."""
