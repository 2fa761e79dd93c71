"""The Python API, one module for each area; ``public`` lists the names that ``coordination`` exports."""
