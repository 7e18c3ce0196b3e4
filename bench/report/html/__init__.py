"""The report's page, index.html: one file that works offline. Without torch.

`page.py` puts it together; each other module makes one part of it from a section of the results.
Numbers come from the functions that make the .csv files, and a test compares them.
"""
