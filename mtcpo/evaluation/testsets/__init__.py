"""Test sets: suites, sacreBLEU's archives, and folders of files as WMT and others publish them."""
