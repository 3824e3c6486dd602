"""The errors a user can meet. Every message is one line that names the thing and says what would be right."""


class NexusError(ValueError):
    """Base of all errors raised on bad input; the command line prints its message and exits with status 2."""


class UnsupportedConfig(NexusError):
    """A config key, or a key's value, that the family cannot express."""


class UnknownModelType(NexusError):
    """A `model_type` that no family file describes."""


class InvalidArchitecture(NexusError):
    """An n whose fields contradict each other or name something that does not exist."""


class UnsupportedPart(NexusError):
    """A valid part of n that no module computes yet."""


class CheckpointError(NexusError):
    """Files that are missing, truncated, or do not fit the n they are loaded into."""


class InputError(NexusError):
    """Ids outside the vocabulary, a prompt beyond the context, a cache that does not fit the call."""


class RankLost(NexusError):
    """Another process of a job ended, or does not answer."""
