"""Who may: the policies of the service, those of its operator, and how a call is decided by them.

The policies are files in the language of Cedar, beside this module; README.md tells how one is written.
"""
