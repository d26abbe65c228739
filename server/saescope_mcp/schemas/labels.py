"""What a feature is called, as every reply that names features says it."""

from pydantic import BaseModel


class LabelScore(BaseModel):
    """Balanced accuracy in blind quizzes by the label alone (0.5 is chance), its 95 % interval, and the items judged."""

    model_config = {"from_attributes": True}

    balanced_accuracy: float
    low: float
    high: float
    n: int


class Label(BaseModel):
    """What a feature is said to mean, by whom, and how well that was tested."""

    model_config = {"from_attributes": True}

    text: str
    source: str
    """"you", "agent" or "neuronpedia:...": text from elsewhere is to be distrusted."""
    score: LabelScore | None
    verdict: str
    """ "not tested" without a score."""
