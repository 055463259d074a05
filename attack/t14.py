from lib import *
ann=token({"id":"ann","role":"user","tenantId":"t"})
for args in (['--idempotency-wait','30d'],['--idempotency-wait','0s'],['--idempotency-wait','1ms'],['--idempotency-retention','999999999d'],['--idempotency-retention','0s'],['--idempotency-response-limit','0'],['--idempotency-deployment',''],['--idempotency-deployment','ü\n"']):
    psql('postgres','drop database if exists atk14'); psql('postgres','create database atk14')
    try: A=Server(7901,PG+'atk14','/tmp/atk/atk.cstack',*args)
    except Exception as e: print(args,'REFUSED',str(e)[:150]); continue
    for k in ('a',str(uuid.UUID(int=(int(time.time()*1000-50)<<80)|(7<<76)|(2<<62)|7))):
        r=req(7901,'POST','/autos',{"text":"q"},key=k,tok=ann); s=req(7901,'POST','/autos',{"text":"q"},key=k,tok=ann); b=req(7901,'POST','/autos/batch',{"items":[{"op":"create","data":{"text":"b"}}]},key='b'+k,tok=ann)
        print(args,k[:5],r[0],s[0],b[0],[x[2][:200] for x in (r,s,b) if x[0]>=400], psql('atk14','select expires_at from cratestack_idempotency limit 1'))
    A.stop(); l=open('/tmp/atk/log-7901').read(); 
    if 'ERROR' in l: print(l[-400:])
psql('postgres','drop database atk14')
