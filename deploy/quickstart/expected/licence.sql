-- Published licences, in the standard's words, by plain SQL.
CREATE TEMP VIEW licence AS
SELECT
    '1' AS record_kind,
    XK_WSH AS doc_no,
    XK_XKJGDM AS authority_uscc,
    XK_XDR_MC AS subject_name,
    XK_XDR_SHXYM AS uscc,
    XK_XKWS AS doc_name,
    CASE XK_XKLB WHEN '普通' THEN '01' WHEN '特许' THEN '02' WHEN '认可' THEN '03' WHEN '核准' THEN '04' WHEN '登记' THEN '05' WHEN '其他' THEN '06' END AS licence_kind,
    XK_XKBH AS licence_cert_no,
    XK_NR AS content,
    replace(XK_JDRQ, '/', '-') AS decided,
    replace(XK_YXQZ, '/', '-') AS valid_from,
    CASE XK_YXQZI WHEN '2099/12/31' THEN '9999-12-31' ELSE replace(XK_YXQZI, '/', '-') END AS valid_to,
    XK_ZT AS status
FROM department."行政许可";
