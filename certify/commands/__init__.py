"""One module per command of the `certify` program. What a command needs beyond its options is imported
when it runs, so that help and refusals are quick."""
