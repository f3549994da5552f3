"""Built-in methods of the family misc: a folder or a file for each."""

from longatlas import method_folder

register_methods = method_folder(__name__)
