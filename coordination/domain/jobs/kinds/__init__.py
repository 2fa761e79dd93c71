"""The job kinds, one module each; the registry imports all of them."""
