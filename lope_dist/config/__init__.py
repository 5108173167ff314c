"""The typed, frozen configuration tree and how it is read. Imports no torch."""
