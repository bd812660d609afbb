"""The native runtime: what a device needs to run a bundle, and how it is built."""
