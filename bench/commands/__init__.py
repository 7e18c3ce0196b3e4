"""The commands of `bench`, a file each or two that belong together; every slow import waits."""
