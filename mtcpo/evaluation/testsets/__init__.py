"""Test sets: suites, sacreBLEU's archives, and the folders that WMT and others publish."""
