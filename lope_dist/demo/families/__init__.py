"""The families of tasks; a new one is a registered function in a module of this package."""
