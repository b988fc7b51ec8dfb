//! Whether the setting `output_plugin_libraries` lets this server stream to a recovery (pure).

/// Ok: the plugin may be loaded. `list`: the value of the setting; None where this minor version of PostgreSQL does not
/// have it.
///
/// # Errors
/// A sentence that says what to type so that the plugin may be loaded.
pub fn check(list: Option<&str>) -> Result<(), String> {
    let Some(list) = list else { return Ok(()) };
    let items: Vec<&str> = list.split(',').map(|item| item.trim().trim_matches('"')).collect();
    if items.iter().any(|item| item.rsplit('/').next() == Some("spock_recovery") || *item == "*") {
        return Ok(());
    }
    let listed: Vec<&str> = items.into_iter().filter(|item| !item.is_empty()).collect();
    Err(format!(
        "does not list spock_recovery, so this node cannot be the source of a recovery: ALTER SYSTEM SET \
         output_plugin_libraries = {}, spock_recovery; SELECT pg_reload_conf()",
        listed.join(", ")
    ))
}
