"""Every error a user can meet: what was found, what was expected, what to do."""


class CidmError(ValueError):
    """Base of all errors raised on purpose by this package."""

    def __init_subclass__(cls) -> None:
        # A host may import the package under a folder's path, and shows that with every error.
        _, package, rest = cls.__module__.rpartition("cidm_core")
        cls.__module__ = package + rest


class BankError(CidmError):
    """A concept file or a bank folder cannot be read, written or combined."""


class ConceptError(CidmError):
    """A concept's words, shapes or values do not fit together."""


class FamilyError(CidmError):
    """A model is of another family or base than the concept it should carry."""


class HostError(CidmError):
    """The model files or the machine cannot do what was asked."""


class PhotoError(CidmError):
    """A training photo, caption or mask cannot be used."""


class PromptError(CidmError):
    """A prompt cannot be encoded as it stands."""


class RegionError(CidmError):
    """A region lies outside the picture, is too small or is not a number."""


class RelevanceError(CidmError):
    """No concept of the bank fits the prompt."""


class TrainingError(CidmError):
    """Training had to stop; the last good state is kept on disk."""
