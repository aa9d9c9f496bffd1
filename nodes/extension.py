"""The list of nodes ComfyUI shows. Ids are permanent; inputs are only ever appended."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.latest import ComfyExtension, io


class ConceptExtension(ComfyExtension):
    """Everything the pack adds to ComfyUI."""

    async def on_load(self) -> None:
        """Register bank folders, to which extra_model_paths.yaml may add, and the tab's routes."""
        from .gallery.routes import add_routes
        from .host.comfy import BANKS, remember_prompts, say_less_of_rows

        remember_prompts()
        say_less_of_rows()
        add_routes()
        folder = os.path.join(folder_paths.models_dir, BANKS)
        os.makedirs(folder, exist_ok=True)
        folder_paths.add_model_folder_path(BANKS, folder, is_default=True)
        # A new folder would list files of every kind.
        folder_paths.folder_names_and_paths[BANKS][1].add(".safetensors")
        # A concept file is a LoRA too: the stock loaders list it, after the user's own.
        for root in folder_paths.get_folder_paths(BANKS):
            folder_paths.add_model_folder_path("loras", root)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes, in the order of the menu."""
        from .bank.banks import ConceptInfo, LoadConceptBank, RemoveConcept
        from .bank.compress import CompressConcept
        from .bank.exchange import ExportConcept, ImportConcept
        from .bank.moving import MoveConcepts
        from .bank.strengths import ConceptStrengths
        from .bank.versions import ConceptVersion
        from .evaluation.evaluate import EvaluateConcepts
        from .evaluation.over_fitting import MeasureOverFitting
        from .mini.load import LoadMiniModel
        from .mini.photos import MiniPhotos
        from .regions.guider import RegionalNoiseGuider
        from .regions.regions import ConceptRegion, ConceptRegions
        from .sampling.apply import ApplyConceptBank, ShowConceptWeights
        from .sampling.bake import BakeConcepts
        from .sampling.merge import MergeConcepts
        from .training.captions import PhotosAndCaptions
        from .training.contrast import WordContrast
        from .training.memory import TrainingEstimate
        from .training.methods import MethodCidm, MethodClif, MethodCustomDiffusion, MethodInfusion
        from .training.subject import MoreSubjects
        from .training.train import TrainConcept

        return [
            LoadConceptBank,
            TrainConcept,
            MethodCidm,
            ConceptStrengths,
            ConceptVersion,
            ApplyConceptBank,
            ConceptRegion,
            ConceptRegions,
            RegionalNoiseGuider,
            ShowConceptWeights,
            BakeConcepts,
            MergeConcepts,
            CompressConcept,
            EvaluateConcepts,
            ConceptInfo,
            RemoveConcept,
            ImportConcept,
            ExportConcept,
            MoveConcepts,
            LoadMiniModel,
            MethodCustomDiffusion,
            MethodInfusion,
            MoreSubjects,
            MeasureOverFitting,
            MethodClif,
            WordContrast,
            MiniPhotos,
            PhotosAndCaptions,
            TrainingEstimate,
        ]
