"""Built-in methods of the family context_processing: a folder or a file for each."""

from longatlas import method_folder

register_methods = method_folder(__name__)
