# every config of mmsnn that an OpenMMLab tool may read on its own
custom_imports = dict(imports=['mmsnn'], allow_failed_imports=False)
