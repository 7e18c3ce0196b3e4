"""Jobs and their workers: one driver hands out jobs, and is the only writer of a results folder.

A job depends only on its specification and on files, so a worker may die at any time: the driver
hands its job out again with the newest files. Engines (`here`, `processes`) only carry jobs to
workers and events back.
"""
