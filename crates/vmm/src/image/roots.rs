//! Keeps definitions from naming any file of the host: root reads and copies images, and guests read them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{ImageError, Role};

/// Returns the absolute path of a file that is in one of these directories, with all symbolic links followed; the VMM gets
/// it in this form, so that no link can be changed later. Without `roots` the path stays as it is.
pub(super) fn within(
    role: Role,
    path: &Path,
    roots: Option<&[PathBuf]>,
) -> Result<PathBuf, ImageError> {
    let Some(roots) = roots else { return Ok(path.to_owned()) };
    let unfound = |path: PathBuf| move |source| ImageError::Find { role, path, source };
    let named = std::path::absolute(path).map_err(unfound(path.to_owned()))?;
    // A missing file outside is refused like any other: who asks must not learn what exists there.
    let found = fs::canonicalize(&named);
    let real = |root: &PathBuf| fs::canonicalize(root).unwrap_or_else(|_missing| root.clone());
    let inside = |path: &Path| roots.iter().map(real).any(|root| path.starts_with(root));
    match found {
        Ok(found) if inside(&found) => Ok(found),
        Err(source) if inside(&named) || roots.iter().any(|root| named.starts_with(root)) => {
            Err(ImageError::Find { role, path: named, source })
        }
        _ => Err(ImageError::Outside { role, path: named, roots: roots.to_owned() }),
    }
}
