"""Baselines that every other method is compared with."""

from longatlas import method_folder

register_methods = method_folder(__name__)
