"""Pictures and pages for people. Research use only is written on every one of them."""
