"""The token that a visitor from another machine gives before any page is run."""

from __future__ import annotations

import hmac

import streamlit as st

from longatlas_dashboard import settings

_KEY = "token_given"


def passed(token: str) -> bool:
    """Whether no token is set, or this session has given it, in the form or as ?token= in the URL.

    One that matches is taken out of the address, so that it is not seen, copied or bookmarked; other parameters stay.
    The session stays known; a reload of that address is another session, and is asked again.
    """
    if not token:
        return True
    given = str(st.query_params.get("token", ""))
    if given and matches(given, token):
        st.session_state[_KEY] = True
        del st.query_params["token"]
    return bool(st.session_state.get(_KEY))


def matches(given: str, token: str) -> bool:
    """Compare in a time that does not tell how much was right."""
    return hmac.compare_digest(given.encode(), token.encode())


def ask() -> None:
    """The form that asks for the token."""
    st.title("longatlas", anchor=False)
    st.markdown("This dashboard asks for a token. It stands in the terminal where the dashboard was started.")
    with st.form("token"):
        given = st.text_input("Token", type="password", autocomplete="off")
        sent = st.form_submit_button("Enter")
    if sent and matches(given, settings.read().token):
        st.session_state[_KEY] = True
        st.rerun()
    elif sent:
        st.error("That is not the token. Copy the whole of it from the terminal.", icon=":material/error:")
