"""The one exception of unusable volumes."""


class BadVolume(Exception):
    """A volume that cannot be read, or cannot be trusted.

    Whoever catches it adds the path, and with `advised` what the running command offers besides.

    Attributes:
        problem: what is wrong.
        remedy: what mends the file; empty where nothing does.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        """Keep both parts."""
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        """The problem, and the remedy where there is one."""
        return "; ".join(filter(None, (self.problem, self.remedy)))

    def advised(self, otherwise: str) -> str:
        """The same, with what a user of the running command can do instead of mending the file."""
        return f"{self.problem}; {', or '.join(filter(None, (self.remedy, otherwise)))}"
