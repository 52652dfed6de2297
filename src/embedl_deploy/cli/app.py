"""The command line with all its commands."""

from embedl_deploy.cli.program import program

app = program()
